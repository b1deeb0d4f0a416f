"""The suite that examines encoders."""
