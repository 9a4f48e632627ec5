"""How one call is sent: its options, and what one pool shares."""
