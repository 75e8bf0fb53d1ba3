"""What a request passes before it is answered: hosts, keys, rates, room, sizes."""
