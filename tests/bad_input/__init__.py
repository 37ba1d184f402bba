"""Wrong inputs: the scene in which they are given, and tables of calls with the sentence that each must get."""
