# A node parent waits for the exit of a command whose output it never reads; a socketpair is full.

import os

script = """
const child = require('child_process').spawn('seq', ['1000000']);
child.on('spawn', () => console.log('ready'));
child.on('exit', () => process.exit(0));
"""
os.execvp("node", ["node", "-e", script])
