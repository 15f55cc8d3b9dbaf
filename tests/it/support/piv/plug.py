"""Runs pcscd in a sandbox, with the configuration in a folder that is the only
argument, and connects to its virtual readers.

For each port, two bytes that come over the socket /run/pcscd/plug, it opens a
connection in the sandbox's network and hands its descriptor back.
"""

import socket
import subprocess
import sys

command = ["pcscd", "--foreground", "--config", sys.argv[1]]
# There is no polkit in the sandbox; before pcscd 2 there was no such option.
if "--disable-polkit" in subprocess.run(["pcscd", "--help"], capture_output=True, text=True).stdout:
    command.append("--disable-polkit")
subprocess.Popen(command)

listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/pcscd/plug")
listener.listen()
while True:
    with listener.accept()[0] as client:
        port = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
        if port:
            with socket.create_connection(("127.0.0.1", port)) as reader:
                socket.send_fds(client, [b"."], [reader.fileno()])
