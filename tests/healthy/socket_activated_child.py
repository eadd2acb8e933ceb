# A child serves a Unix socket, the parent is its connected client and waits for input of a person.

import os
import socket
import sys

server = socket.socket(socket.AF_UNIX)
server.bind("")
server.listen()
if not os.fork():
    connection = server.accept()[0]
    while connection.recv(4096):
        pass
    os._exit(0)
client = socket.socket(socket.AF_UNIX)
client.connect(server.getsockname())
print("ready", flush=True)
sys.stdin.read()
