"""The native runner as LLVM IR text: walks records of launches and shares each phase's tasks among threads.

A record is one launch as consecutive 64-bit words, so a capture is nothing but records laid end to end:

    phases, buffers, variables, scratch address, scratch bytes per worker,    (the header)
    function, tasks    (for each phase),    buffer addresses …,    values of variables …

Hand-out: `left` counts the chunks that nobody has taken. A thread takes one by a compare-and-swap, and
reads what the job is only then: a job cannot change before `pending` is 0, which it is not while a chunk
is held, so a late waker gets a chunk of the present job or none. Whoever finds nothing to do spins for a
moment and then sleeps on a condition variable; both sleeps check again under the mutex after announcing
themselves, so no wake-up is lost.
"""

from __future__ import annotations

__all__ = ["CONTROL_WORDS", "FIELDS", "HEADER_WORDS", "SYMBOLS", "TEAM_BYTES", "runner_source"]

SYMBOLS = ("petaflop_run", "petaflop_replay", "petaflop_worker", "petaflop_spin")

HEADER_WORDS = 5
CONTROL_WORDS = 4  # of a replay, before its table
TEAM_BYTES = 1024

# Byte offsets in the team's memory; what different threads write is on cache lines of its own.
FIELDS: dict[str, int] = {
    "left": 0,
    "pending": 64,
    "function": 128, "buffers": 136, "variables": 144, "scratch": 152, "stride": 160, "tasks": 168,
    "chunks": 176,
    "sleepers": 192, "waiting": 200, "stop": 208,
    "spins": 256, "workers": 264, "spread": 272,
    "lock": 320, "unlock": 328, "wait": 336, "broadcast": 344,
    "mutex": 384, "work_ready": 512, "work_done": 640,
}  # fmt: skip

_PAUSES = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}


def runner_source(triple: str) -> str:
    """The runner's module, which defines `SYMBOLS`."""
    declaration, pause = _PAUSES.get(triple.split("-")[0].replace("arm64", "aarch64"), ("", ""))
    source = _SOURCE.replace("{pause}", pause).replace("{declaration}", declaration)
    for name, offset in FIELDS.items():
        source = source.replace(f"{{{name}}}", f"getelementptr i8, ptr %team, i64 {offset}")
    return source


_SOURCE = """\
{declaration}

define internal void @work(ptr %team, i64 %worker) {
entry:
  %left_at = {left}
  %pending_at = {pending}
  br label %look
look:
  %left = load atomic i64, ptr %left_at acquire, align 8
  %none = icmp eq i64 %left, 0
  br i1 %none, label %leave, label %take
take:
  %fewer = sub i64 %left, 1
  %swap = cmpxchg ptr %left_at, i64 %left, i64 %fewer acq_rel acquire, align 8
  %taken = extractvalue {i64, i1} %swap, 1
  br i1 %taken, label %run, label %look
run:
  %function_at = {function}
  %function = load ptr, ptr %function_at, align 8
  %buffers_at = {buffers}
  %buffers = load ptr, ptr %buffers_at, align 8
  %variables_at = {variables}
  %variables = load ptr, ptr %variables_at, align 8
  %scratch_at = {scratch}
  %base = load ptr, ptr %scratch_at, align 8
  %stride_at = {stride}
  %stride = load i64, ptr %stride_at, align 8
  %tasks_at = {tasks}
  %tasks = load i64, ptr %tasks_at, align 8
  %chunks_at = {chunks}
  %chunks = load i64, ptr %chunks_at, align 8
  %offset = mul i64 %worker, %stride
  %scratch = getelementptr i8, ptr %base, i64 %offset
  %chunk = sub i64 %chunks, %left
  %scaled = mul i64 %chunk, %tasks
  %first = udiv i64 %scaled, %chunks
  %beyond = add i64 %scaled, %tasks
  %last = udiv i64 %beyond, %chunks
  call void %function(ptr %buffers, ptr %variables, ptr %scratch, i64 %first, i64 %last)
  %before = atomicrmw sub ptr %pending_at, i64 1 seq_cst, align 8
  %finished = icmp eq i64 %before, 1
  br i1 %finished, label %tell, label %look
tell:
  %waiting_at = {waiting}
  %waiting = load atomic i64, ptr %waiting_at seq_cst, align 8
  %unheard = icmp eq i64 %waiting, 0
  br i1 %unheard, label %look, label %call
call:
  %work_done = {work_done}
  call void @wake(ptr %team, ptr %work_done)
  br label %look
leave:
  ret void
}

define internal void @lock(ptr %team) {
  %mutex = {mutex}
  %lock_at = {lock}
  %lock = load ptr, ptr %lock_at, align 8
  call i32 %lock(ptr %mutex)
  ret void
}

define internal void @unlock(ptr %team) {
  %mutex = {mutex}
  %unlock_at = {unlock}
  %unlock = load ptr, ptr %unlock_at, align 8
  call i32 %unlock(ptr %mutex)
  ret void
}

define internal void @sleep(ptr %team, ptr %condition) {
  %mutex = {mutex}
  %wait_at = {wait}
  %wait = load ptr, ptr %wait_at, align 8
  call i32 %wait(ptr %condition, ptr %mutex)
  ret void
}

define internal void @wake(ptr %team, ptr %condition) {
  call void @lock(ptr %team)
  %broadcast_at = {broadcast}
  %broadcast = load ptr, ptr %broadcast_at, align 8
  call i32 %broadcast(ptr %condition)
  call void @unlock(ptr %team)
  ret void
}

; what each thread of the team runs until `stop`; its argument is {team, number}
define ptr @petaflop_worker(ptr %argument) {
entry:
  %team = load ptr, ptr %argument, align 8
  %number_at = getelementptr i64, ptr %argument, i64 1
  %number = load i64, ptr %number_at, align 8
  %left_at = {left}
  %stop_at = {stop}
  %spins_at = {spins}
  %sleepers_at = {sleepers}
  %work_ready = {work_ready}
  br label %begin
begin:
  %spins = load i64, ptr %spins_at, align 8
  br label %spin
spin:
  %count = phi i64 [%spins, %begin], [%less, %idle]
  %left = load atomic i64, ptr %left_at monotonic, align 8
  %nothing = icmp eq i64 %left, 0
  br i1 %nothing, label %idle, label %join
idle:
  {pause}
  %less = sub i64 %count, 1
  %more = icmp sgt i64 %less, 0
  br i1 %more, label %spin, label %tired
join:
  call void @work(ptr %team, i64 %number)
  br label %begin
tired:
  call void @lock(ptr %team)
  %asleep = atomicrmw add ptr %sleepers_at, i64 1 seq_cst, align 8
  br label %check
check:
  %stop = load atomic i64, ptr %stop_at seq_cst, align 8
  %now_left = load atomic i64, ptr %left_at seq_cst, align 8
  %either = or i64 %stop, %now_left
  %quiet = icmp eq i64 %either, 0
  br i1 %quiet, label %doze, label %rise
doze:
  call void @sleep(ptr %team, ptr %work_ready)
  br label %check
rise:
  %awake = atomicrmw sub ptr %sleepers_at, i64 1 seq_cst, align 8
  call void @unlock(ptr %team)
  %ended = icmp ne i64 %stop, 0
  br i1 %ended, label %leave, label %begin
leave:
  ret ptr null
}

; one phase on the whole team, the caller included
define internal void @share(ptr %team, ptr %function, ptr %buffers, ptr %variables, ptr %scratch, i64 %stride,
                            i64 %tasks) {
entry:
  %left_at = {left}
  %pending_at = {pending}
  %function_at = {function}
  store ptr %function, ptr %function_at, align 8
  %buffers_at = {buffers}
  store ptr %buffers, ptr %buffers_at, align 8
  %variables_at = {variables}
  store ptr %variables, ptr %variables_at, align 8
  %scratch_at = {scratch}
  store ptr %scratch, ptr %scratch_at, align 8
  %stride_at = {stride}
  store i64 %stride, ptr %stride_at, align 8
  %tasks_at = {tasks}
  store i64 %tasks, ptr %tasks_at, align 8
  %spread_at = {spread}
  %spread = load i64, ptr %spread_at, align 8
  %chunks = call i64 @llvm.smin.i64(i64 %tasks, i64 %spread)
  %chunks_at = {chunks}
  store i64 %chunks, ptr %chunks_at, align 8
  store atomic i64 %chunks, ptr %pending_at monotonic, align 8
  store atomic i64 %chunks, ptr %left_at seq_cst, align 8
  %sleepers_at = {sleepers}
  %sleepers = load atomic i64, ptr %sleepers_at seq_cst, align 8
  %awake = icmp eq i64 %sleepers, 0
  br i1 %awake, label %help, label %rouse
rouse:
  %work_ready = {work_ready}
  call void @wake(ptr %team, ptr %work_ready)
  br label %help
help:
  call void @work(ptr %team, i64 0)
  %spins_at = {spins}
  %spins = load i64, ptr %spins_at, align 8
  br label %spin
spin:
  %count = phi i64 [%spins, %help], [%less, %idle]
  %pending = load atomic i64, ptr %pending_at acquire, align 8
  %done = icmp eq i64 %pending, 0
  br i1 %done, label %leave, label %idle
idle:
  {pause}
  %less = sub i64 %count, 1
  %more = icmp sgt i64 %less, 0
  br i1 %more, label %spin, label %tired
tired:
  %waiting_at = {waiting}
  store atomic i64 1, ptr %waiting_at seq_cst, align 8
  call void @lock(ptr %team)
  br label %check
check:
  %rest = load atomic i64, ptr %pending_at seq_cst, align 8
  %over = icmp eq i64 %rest, 0
  br i1 %over, label %rise, label %doze
doze:
  %work_done = {work_done}
  call void @sleep(ptr %team, ptr %work_done)
  br label %check
rise:
  call void @unlock(ptr %team)
  store atomic i64 0, ptr %waiting_at monotonic, align 8
  br label %leave
leave:
  ret void
}

; `count` records one after another
define void @petaflop_run(ptr %team, ptr %records, i64 %count) {
entry:
  %workers_at = {workers}
  %workers = load i64, ptr %workers_at, align 8
  %alone = icmp sle i64 %workers, 1
  br label %record
record:
  %at = phi ptr [%records, %entry], [%next, %finish]
  %todo = phi i64 [%count, %entry], [%todo_less, %finish]
  %any = icmp sgt i64 %todo, 0
  br i1 %any, label %open, label %leave
open:
  %todo_less = sub i64 %todo, 1
  %phases = load i64, ptr %at, align 8
  %buffer_count_at = getelementptr i64, ptr %at, i64 1
  %buffer_count = load i64, ptr %buffer_count_at, align 8
  %variable_count_at = getelementptr i64, ptr %at, i64 2
  %variable_count = load i64, ptr %variable_count_at, align 8
  %scratch_at = getelementptr i64, ptr %at, i64 3
  %scratch = load ptr, ptr %scratch_at, align 8
  %stride_at = getelementptr i64, ptr %at, i64 4
  %stride = load i64, ptr %stride_at, align 8
  %first = getelementptr i64, ptr %at, i64 5
  %phase_words = mul i64 %phases, 2
  %buffers = getelementptr i64, ptr %first, i64 %phase_words
  %variables = getelementptr i64, ptr %buffers, i64 %buffer_count
  %next = getelementptr i64, ptr %variables, i64 %variable_count
  br label %phase
phase:
  %part = phi ptr [%first, %open], [%following, %after]
  %unfinished = icmp ult ptr %part, %buffers
  br i1 %unfinished, label %go, label %finish
go:
  %function = load ptr, ptr %part, align 8
  %tasks_at = getelementptr i64, ptr %part, i64 1
  %tasks = load i64, ptr %tasks_at, align 8
  %single = icmp sle i64 %tasks, 1
  %inline = or i1 %single, %alone
  br i1 %inline, label %here, label %team_work
here:
  %empty = icmp sle i64 %tasks, 0
  br i1 %empty, label %after, label %call
call:
  call void %function(ptr %buffers, ptr %variables, ptr %scratch, i64 0, i64 %tasks)
  br label %after
team_work:
  call void @share(ptr %team, ptr %function, ptr %buffers, ptr %variables, ptr %scratch, i64 %stride,
                   i64 %tasks)
  br label %after
after:
  %following = getelementptr i64, ptr %part, i64 2
  br label %phase
finish:
  br label %record
leave:
  ret void
}

; the same for the records that `control` names, after filling in words[place[0]] = table[place[1]] for each
; of their places; control holds the address and number of the records, those of the places, then the table
define void @petaflop_replay(ptr %team, ptr %control) {
entry:
  %words = load ptr, ptr %control, align 8
  %count_at = getelementptr i64, ptr %control, i64 1
  %count = load i64, ptr %count_at, align 8
  %places_at = getelementptr i64, ptr %control, i64 2
  %places = load ptr, ptr %places_at, align 8
  %pairs_at = getelementptr i64, ptr %control, i64 3
  %pairs = load i64, ptr %pairs_at, align 8
  %table = getelementptr i64, ptr %control, i64 4
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i_next, %fill]
  %more = icmp slt i64 %i, %pairs
  br i1 %more, label %fill, label %go
fill:
  %twice = shl i64 %i, 1
  %place = getelementptr i64, ptr %places, i64 %twice
  %word = load i64, ptr %place, align 8
  %entry_at = getelementptr i64, ptr %place, i64 1
  %entry_number = load i64, ptr %entry_at, align 8
  %from = getelementptr i64, ptr %table, i64 %entry_number
  %value = load i64, ptr %from, align 8
  %to = getelementptr i64, ptr %words, i64 %word
  store i64 %value, ptr %to, align 8
  %i_next = add i64 %i, 1
  br label %loop
go:
  call void @petaflop_run(ptr %team, ptr %words, i64 %count)
  ret void
}

; `count` pauses, so that the team can learn how long one takes
define void @petaflop_spin(i64 %count) {
entry:
  br label %spin
spin:
  %left = phi i64 [%count, %entry], [%less, %spin]
  {pause}
  %less = sub i64 %left, 1
  %more = icmp sgt i64 %less, 0
  br i1 %more, label %spin, label %leave
leave:
  ret void
}
"""
