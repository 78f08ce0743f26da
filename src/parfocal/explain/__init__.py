"""Show predictions: records, pictures, reports, exports and the viewer."""
