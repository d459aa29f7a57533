"""Exported encoders as parts of other libraries' agents; each adapter imports its library, which an extra installs."""
