"""One call, from the client's door to the socket and back."""
