"""A small multiplayer world: players enter, walk, find chests, trade, talk and look at the map."""
