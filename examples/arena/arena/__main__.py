from arena.tools import main

raise SystemExit(main())
