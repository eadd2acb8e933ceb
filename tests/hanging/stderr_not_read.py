# The parent reads the child's output to its end, while the child is blocked writing errors.

import subprocess
import sys

program = "import sys; sys.stderr.write('x' * 200000); print('done')"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
print("ready", flush=True)
child.stdout.read()
child.stderr.read()
child.wait()
