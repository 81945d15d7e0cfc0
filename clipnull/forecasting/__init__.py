"""What an edit will do, before any picture is seen; choosing a method and a strength by it."""
