"""Tables of ablations: rows over seeds, trained, evaluated and set beside the paper's numbers."""
