"""Files become typed records: formats, layouts that drift, text that no format reads."""
