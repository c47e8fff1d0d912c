"""The embedded model `tiny`: how it is made from nothing but the generated worlds and their oracle."""
