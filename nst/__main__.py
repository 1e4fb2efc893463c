"""`python -m nst`."""

from nst.main import main

main()
