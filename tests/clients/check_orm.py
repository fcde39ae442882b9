"""SQLAlchemy 2: Core and ORM: create, reflect, insert, load relationships, transactions, rollback."""
import datetime, decimal, os
from sqlalchemy import (CheckConstraint, ForeignKey, Index, MetaData, Numeric, String, Table, UniqueConstraint,
                        create_engine, func, inspect, select, text, update)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload, joinedload

engine = create_engine(os.environ["URL"].replace("postgresql://", "postgresql+psycopg://"))
checks = 0


def check(actual, expected):
    global checks
    assert actual == expected, f"{actual!r} is not {expected!r}"
    checks += 1


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    born: Mapped[datetime.date | None]
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id", ondelete="CASCADE"))
    title: Mapped[str]
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(8, 2), server_default=text("9.99"))
    added: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    author: Mapped[Author] = relationship(back_populates="books")
    __table_args__ = (
        UniqueConstraint("author_id", "title", name="one_title"),
        CheckConstraint("price >= 0", name="price_not_negative"),
        Index("books_by_title", "title"),
    )


Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
Base.metadata.create_all(engine)  # finds them there

with Session(engine) as s:
    s.add_all([
        Author(name="Lamport", born=datetime.date(1941, 2, 7), books=[Book(title="Clocks"), Book(title="Paxos", price="20.00")]),
        Author(name="Liskov", books=[Book(title="PBFT")]),
    ])
    s.commit()

with Session(engine) as s:
    lamport = s.scalars(select(Author).where(Author.name == "Lamport")).one()
    check(sorted(b.title for b in lamport.books), ["Clocks", "Paxos"])
    check({b.title: b.price for b in lamport.books}, {"Clocks": decimal.Decimal("9.99"), "Paxos": decimal.Decimal("20.00")})
    everyone = s.scalars(select(Author).options(selectinload(Author.books)).order_by(Author.name)).all()
    check([(a.name, len(a.books)) for a in everyone], [("Lamport", 2), ("Liskov", 1)])
    joined = s.scalars(select(Book).options(joinedload(Book.author)).order_by(Book.title)).all()
    check([b.author.name for b in joined], ["Lamport", "Liskov", "Lamport"])
    counts = s.execute(select(Author.name, func.count(Book.id), func.sum(Book.price)).join(Book).group_by(Author.name).order_by(Author.name)).all()
    check([tuple(r) for r in counts], [("Lamport", 2, decimal.Decimal("29.99")), ("Liskov", 1, decimal.Decimal("9.99"))])
    lamport.books[0].title = "Time"
    s.execute(update(Book).where(Book.title == "PBFT").values(price=Book.price * 2))
    s.commit()
    check(s.scalar(select(Book.price).where(Book.title == "PBFT")), decimal.Decimal("19.98"))

with Session(engine) as s:
    s.add(Author(name="Liskov"))
    try:
        s.commit()
        raise SystemExit("a duplicate was accepted")
    except IntegrityError:
        s.rollback()
    s.add(Author(name="Gray"))
    s.flush()
    s.rollback()
    check(s.scalar(select(func.count()).select_from(Author)), 2)
    with s.begin_nested():
        s.add(Author(name="Reuter"))
    try:
        with s.begin_nested():
            s.add(Book(author_id=1, title="Bad", price=-1))
            s.flush()
    except IntegrityError as error:
        check(error.orig.diag.constraint_name, "price_not_negative")
    s.commit()
    check(s.scalar(select(func.count()).select_from(Author)), 3)
    s.delete(s.scalars(select(Author).where(Author.name == "Lamport")).one())
    s.commit()
    check(s.scalar(select(func.count()).select_from(Book)), 1)

look = inspect(engine)
check({"authors", "books"} <= set(look.get_table_names()), True)
check([(c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns("books")], [
    ("id", "INTEGER", False), ("author_id", "INTEGER", False), ("title", "VARCHAR", False),
    ("price", "NUMERIC(8, 2)", False), ("added", "TIMESTAMP", False)])
check(look.get_pk_constraint("books")["constrained_columns"], ["id"])
fk = look.get_foreign_keys("books")[0]
check((fk["constrained_columns"], fk["referred_table"], fk["referred_columns"], fk["options"]),
      (["author_id"], "authors", ["id"], {"ondelete": "CASCADE"}))
check([(u["name"], u["column_names"]) for u in look.get_unique_constraints("books")], [("one_title", ["author_id", "title"])])
check("books_by_title" in {i["name"] for i in look.get_indexes("books")}, True)
check([c["name"] for c in look.get_check_constraints("books")], ["price_not_negative"])
reflected = MetaData()
books = Table("books", reflected, autoload_with=engine)
check([c.name for c in books.primary_key], ["id"])
check("authors" in reflected.tables, True)
with engine.begin() as c:
    c.execute(books.insert(), [{"author_id": 2, "title": f"Volume {i}"} for i in range(50)])
    check(c.scalar(select(func.count()).select_from(books)), 51)
Base.metadata.drop_all(engine)
check({"authors", "books"} & set(inspect(engine).get_table_names()), set())
print(f"{checks} checks")
