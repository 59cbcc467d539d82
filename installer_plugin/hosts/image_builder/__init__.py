"""image-builder and osbuild: their command lines and manifests, with the bound images in every disk."""
