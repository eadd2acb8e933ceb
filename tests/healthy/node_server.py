# A node server that listens, with a forked worker that waits for messages of its channel, a socketpair.

import os

script = """
const server = require('net').createServer(() => {}).listen(0, '127.0.0.1');
const source = "process.on('message', m => process.send(m)); process.send('up')";
const worker = require('child_process').spawn(process.argv0, ['-e', source], {stdio: ['ignore', 1, 2, 'ipc']});
worker.on('message', () => console.log('ready'));
"""
os.execvp("node", ["node", "-e", script])
