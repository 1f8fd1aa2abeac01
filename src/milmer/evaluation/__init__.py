"""Protocols, metrics and statistics over metadata tables; imports without torch."""
