# Two workers wait for tasks of a pipecap queue; main waits for its standard input.

import sys

import pipecap

fork = pipecap.get_context("fork")
tasks, results = fork.Queue(), fork.Queue()


def work():
    for task in iter(tasks.get, None):
        results.put(task)


for _ in range(2):
    fork.Process(target=work, daemon=True).start()
tasks.put("task")
results.get()
print("ready", flush=True)
sys.stdin.read()
