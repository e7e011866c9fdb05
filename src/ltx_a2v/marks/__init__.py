"""What a video says of itself: tags, an XMP packet, a signed C2PA manifest, a visible label; and reading them again."""
