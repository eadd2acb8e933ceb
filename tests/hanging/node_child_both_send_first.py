# A Python parent writes 4 MB to node and reads only then; node writes synchronously what it has read.

import subprocess

script = """
const fs = require('fs'), chunk = Buffer.alloc(65536);
for (let size; (size = fs.readSync(0, chunk)) > 0;) fs.writeSync(1, chunk, 0, size);
"""
node = subprocess.Popen(["node", "-e", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print("ready", flush=True)
node.stdin.write(bytes(4000000))
node.stdin.close()
node.stdout.read()
