"""Sample pictures: photos that ship with packages, and paintings that the program makes."""
