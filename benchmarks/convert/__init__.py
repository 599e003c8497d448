"""From a shape to every format that is measured."""
