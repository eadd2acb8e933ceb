# tail -f of a log that does not grow, read by grep.

import os
import tempfile

log = tempfile.NamedTemporaryFile()
os.set_inheritable(log.fileno(), True)
os.execvp("sh", ["sh", "-c", f"echo ready; tail -f {log.name} | grep --line-buffered error"])
