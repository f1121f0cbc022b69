"""Generator of the reference pages and schemas, and the steps that turn docs/ into the site."""
