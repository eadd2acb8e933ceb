# A pipeline of four stages that passes a line every 200 ms.

import os

script = "while sleep 0.2; do echo line; done | tee /dev/null | grep --line-buffered line | cat >/dev/null"
os.execvp("sh", ["sh", "-c", f"echo ready; {script}"])
