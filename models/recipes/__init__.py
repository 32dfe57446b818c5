"""The recipes that come with ondevice, one TOML file each."""
