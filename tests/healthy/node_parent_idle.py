# A node parent with two children that wait for input on their standard input.

import os

script = """
const { spawn } = require('child_process');
const children = ['cat', 'cat'].map(name => spawn(name, {stdio: 'pipe'}));
for (const child of children) child.stdout.on('data', () => {});
children[1].on('spawn', () => { console.log('ready'); process.stdin.resume(); });
"""
os.execvp("node", ["node", "-e", script])
