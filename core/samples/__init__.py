"""Sample images: photos from an installed package, and paintings that the program creates."""
