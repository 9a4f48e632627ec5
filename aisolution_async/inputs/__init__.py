"""From what people have to what the API takes."""
