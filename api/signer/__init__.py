"""The signer: a process of its own that authorises each task of an agent, by a policy and documents that it reads
itself. It trusts the server with nothing but the delivery."""
