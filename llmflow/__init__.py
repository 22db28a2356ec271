"""Run many texts through hosted LLMs at the provider's own speed."""
