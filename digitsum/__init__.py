"""digitsum: reads the sum of several handwritten digits off one image, learned from the sums alone."""
