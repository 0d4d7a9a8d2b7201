"""Reports: one verdict document, and the page, the Markdown and the terminal summary that are rendered from it.

`document` turns a comparison and a verdict into plain values (verdict.json, schema in verdict.schema.json);
`rendering` turns those into words and tables; nothing on the way computes a new figure.
"""
