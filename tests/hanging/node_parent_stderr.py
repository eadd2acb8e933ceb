# A node parent spawns a server and never reads its stderr, which is a socketpair; it waits for an answer.

import os
import sys

server = """
import sys
for _ in range(1000):
    sys.stderr.write('w' * 1023 + chr(10))
print('answer', flush=True)
"""
script = """
const child = require('child_process').spawn(process.argv[1], ['-c', process.argv[2]], {stdio: 'pipe'});
child.on('spawn', () => console.log('ready'));
child.stdout.on('data', () => process.exit(0));
"""
os.execvp("node", ["node", "-e", script, sys.executable, server])
