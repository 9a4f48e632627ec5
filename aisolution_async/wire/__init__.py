"""What goes over the wire: forms out, envelopes back, and the pool of connections between."""
