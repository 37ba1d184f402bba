"""Wrong input: the scene in which calls are made, and tables of calls with the sentence each must get."""
