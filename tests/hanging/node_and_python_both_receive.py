# A node parent waits for the greeting of a Python child, which waits for a request.

import os
import sys

script = """
const child = require('child_process').spawn(process.argv[1], ['-c', 'print(input())']);
child.on('spawn', () => console.log('ready'));
child.stdout.once('data', () => child.stdin.write('request\\n'));
"""
os.execvp("node", ["node", "-e", script, sys.executable])
