"""What keeps the tables small and lets people be forgotten: the one room that knows every other."""
