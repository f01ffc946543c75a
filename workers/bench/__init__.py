"""What the reasoning worker adds to its engine, measured."""
