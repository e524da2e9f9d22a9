"""Many images: shards, manifests, storage, clusters."""
