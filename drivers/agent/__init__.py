"""Targets that nothing can reach: an agent on the host dials out, and carries out what is authorised for it.

protocol, sealing     what server, signer and agent say to each other
driver, asking, link  the server's side: a driver like any other, whose hands are an agent's
host                  the door of the agent's program
channels              its way to the servers
duty                  what it does on its host
"""
