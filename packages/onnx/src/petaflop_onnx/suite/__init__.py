"""ONNX's own backend suite, run in processes that may crash or hang, against a list of what passed before.

`python -m petaflop_onnx.suite --baseline FILE` runs all of it; `--report FOLDER` keeps the table and the
JSON. The node cases are made by the installed onnx, so a baseline belongs to one version of it.
"""
