"""Law: the testbed starts the real parts, as processes of their own, on this machine; it fakes none of them."""
