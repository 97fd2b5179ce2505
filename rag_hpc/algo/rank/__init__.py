"""Rankings: scores, the best k, fusion, clusters."""
