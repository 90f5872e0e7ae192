"""The configuration: its fields, and how the command line and YAML files give them."""
