"""Which capacity and which writes move items fastest: a measured sweep, and what follows from it."""
