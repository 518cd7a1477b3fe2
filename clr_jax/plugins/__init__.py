"""What may be switched on inside an InfoNCE-shaped loss, one file for each. Methods are in
`methods`, what goes around them in `wrappers`.
"""
