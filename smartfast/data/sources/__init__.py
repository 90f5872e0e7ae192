"""Where images come from: folders, archives, arrays, the hub, the bundled digits."""
