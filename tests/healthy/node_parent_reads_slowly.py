# A node parent takes the output of a fast child chunk by chunk, with a pause of 300 ms after each.

import os

script = """
const child = require('child_process').spawn('yes', {stdio: ['ignore', 'pipe', 'inherit']});
child.on('spawn', () => console.log('ready'));
child.stdout.on('data', () => { child.stdout.pause(); setTimeout(() => child.stdout.resume(), 300); });
"""
os.execvp("node", ["node", "-e", script])
