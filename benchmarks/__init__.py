"""burnish and its peers side by side: the same shapes, the same bits, in turn, on the machine at hand."""
